"""Go templates."""

from __future__ import annotations

import pytest

from berth.cli.template import Template
from berth.errors import InvalidArgument

ROW = {
    "Names": "x",
    "State": {"Running": True, "ExitCode": 0},
    "Ports": ["a", "b"],
    "Labels": {"k": "v", "b": "c"},
    "N": 5,
    "Empty": [],
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{.Names}}", "x"),
        ("{{json .State}}", '{"Running":true,"ExitCode":0}'),
        ("{{.State.Running}} {{.State.ExitCode}}", "true 0"),
        ("{{range .Ports}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range $i, $p := .Ports}}{{$i}}{{$p}} {{end}}", "0a 1b "),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}", "b=c k=v "),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if eq .N 4}}four{{else if eq .N 5}}five{{else}}other{{end}}", "five"),
        ("{{with .Names}}<{{.}}>{{end}}", "<x>"),
        ('{{join .Ports ","}}', "a,b"),
        ('{{index .Labels "k"}}{{index .Labels "none"}}', "v"),
        ("{{index .Ports 1}}", "b"),
        ('{{.Names | upper | printf "%s!"}}', "X!"),
        ('{{printf "%-4s|%d" .Names .N}}', "x   |5"),
        ("{{len .Ports}}", "2"),
        ("{{$x := .N}}{{$x}}", "5"),
        ('{{/* nothing */}}a {{- " b"}}', "a b"),
        ("{{or .Empty .Names}} {{and .Names .N}} {{not .Empty}}", "x 5 true"),
        ("{{(index .Ports 0)}}", "a"),
        ("{{.Labels}}", "map[b:c k:v]"),
        ("{{slice .Names 0 1}}", "x"),
        ("{{println .N}}", "5\n"),
    ],
)
def test_what_go_prints(template: str, expected: str) -> None:
    assert Template(template).render(ROW) == expected


@pytest.mark.parametrize(
    "template", ["{{.Names", "{{end}}", "{{if .N}}x", "{{nosuch .N}}", "{{.Nope}}", "{{.Names.More}}", "{{$x}}"]
)
def test_mistakes_are_told(template: str) -> None:
    with pytest.raises(InvalidArgument, match="template"):
        Template(template).render(ROW)
