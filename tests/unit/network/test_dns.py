"""DNS packets against dnslib as the other side, and the directory of names."""

from __future__ import annotations

import dnslib
from hypothesis import given
from hypothesis import strategies as st

from berth.network import dns
from berth.network.directory import Directory, Record


def query(name: str, kind: str = "A", edns: int = 0) -> bytes:
    record = dnslib.DNSRecord.question(name, kind)
    if edns:
        record.add_ar(dnslib.EDNS0(udp_len=edns))
    return bytes(record.pack())


def test_question_is_read() -> None:
    question = dns.read_question(query("Web.App.", "AAAA"))
    assert question is not None
    assert (question.name, question.kind, question.room) == ("web.app", dns.AAAA, 512)
    question = dns.read_question(query("web", edns=1232))
    assert question is not None and question.room == 1232
    question = dns.read_question(query("web", edns=65000))
    assert question is not None and question.room == 4096


@given(st.binary(max_size=80))
def test_no_packet_breaks_the_reader(data: bytes) -> None:
    dns.read_question(data)
    dns.read_question(b"\0\1\1\0\0\1\0\0\0\0\0\0" + data)


def test_what_is_not_a_plain_query_is_not_read() -> None:
    good = query("web")
    assert dns.read_question(good[:2] + b"\x81" + good[3:]) is None, "an answer"
    assert dns.read_question(good[:5] + b"\2" + good[6:]) is None, "two questions"
    assert dns.read_question(good[:-1] + b"\3") is None, "class CHAOS"
    assert dns.read_question(good[:12] + b"\xc0\x0c" + good[14:]) is None, "a compressed name"


def test_answers_are_understood_by_others() -> None:
    packet = query("web")
    question = dns.read_question(packet)
    assert question is not None
    answer = dnslib.DNSRecord.parse(dns.reply(packet, question, [dns.address_record("172.18.0.2", 10)]))
    assert answer.header.id == dnslib.DNSRecord.parse(packet).header.id
    assert answer.header.qr and answer.header.ra and answer.header.rd and answer.header.rcode == 0
    assert [(str(r.rname), str(r.rdata), r.ttl) for r in answer.rr] == [("web.", "172.18.0.2", 10)]
    packet = query("2.0.18.172.in-addr.arpa", "PTR")
    question = dns.read_question(packet)
    assert question is not None
    assert dns.reverse_address(question.name) == "172.18.0.2"
    answer = dnslib.DNSRecord.parse(dns.reply(packet, question, [dns.pointer_record("web.app", 10)]))
    assert str(answer.rr[0].rdata) == "web.app."


def test_too_many_addresses_are_cut_over_udp_only() -> None:
    packet = query("web")
    question = dns.read_question(packet)
    assert question is not None
    records = [dns.address_record(f"10.0.0.{n}", 10) for n in range(1, 101)]
    cut = dns.reply(packet, question, records)
    assert len(cut) <= 512
    parsed = dnslib.DNSRecord.parse(cut)
    assert parsed.header.tc and 0 < len(parsed.rr) < 100
    whole = dnslib.DNSRecord.parse(dns.reply(packet, question, records, stream=True))
    assert not whole.header.tc and len(whole.rr) == 100


def test_only_the_answer_to_our_question_counts() -> None:
    packet = query("example.test")
    question = dns.read_question(packet)
    assert question is not None
    record = dnslib.DNSRecord.parse(packet)
    good = bytes(record.reply().pack())
    assert dns.is_answer_to(good, packet, question)
    assert not dns.is_answer_to(b"\0\0" + good[2:], packet, question) or good[:2] == b"\0\0"
    other = dnslib.DNSRecord.question("evil.test")
    other.header.id = record.header.id
    assert not dns.is_answer_to(bytes(other.reply().pack()), packet, question)
    assert not dns.is_answer_to(packet, packet, question)


def test_reverse_names() -> None:
    six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"
    assert dns.reverse_address(six) == "fd00::2"
    for bad in ("x.0.18.172.in-addr.arpa", "0.18.172.in-addr.arpa", "999.0.18.172.in-addr.arpa", "web.app", "1.ip6.arpa"):
        assert dns.reverse_address(bad) is None


def record(network: str, names: list[str], address: str, **more: object) -> Record:
    return Record({"networks": {network: ["Net-" + network, names, [address]]}, **more})


def test_names_are_seen_within_a_network_only() -> None:
    directory = Directory()
    directory.put("a", record("n1", ["web", "front"], "10.0.0.2", links={"Store": "db"}))
    directory.put("b", record("n1", ["db", "both"], "10.0.0.3"))
    directory.put("c", record("n1", ["db2", "both"], "10.0.0.4"))
    directory.put("d", record("n2", ["far"], "10.1.0.2"))
    assert directory.lookup("a", "db") == ["10.0.0.3"]
    assert directory.lookup("a", "db.net-n1") == ["10.0.0.3"]
    assert directory.lookup("a", "store") == ["10.0.0.3"]
    assert directory.lookup("b", "store") is None, "a link is its owner's own"
    assert sorted(directory.lookup("a", "both") or []) == ["10.0.0.3", "10.0.0.4"]
    assert directory.lookup("a", "far") is None
    assert directory.lookup("unknown", "db") is None
    assert directory.reverse("a", "10.0.0.3") == "db.Net-n1"
    assert directory.reverse("d", "10.0.0.3") is None
    directory.put("b", record("n1", ["renamed"], "10.0.0.9"))
    assert directory.lookup("a", "db") is None and directory.lookup("a", "renamed") == ["10.0.0.9"]
    assert directory.lookup("a", "both") == ["10.0.0.4"]
    directory.keep_only({"a"})
    assert directory.lookup("a", "both") is None and directory.lookup("a", "web") == ["10.0.0.2"]
    directory.drop("a")
    directory.drop("a")
    assert not directory.records and not directory._names and not directory._addresses
