"""Names for containers that were not given one: an adjective and the surname of somebody who made computing what it is."""

from __future__ import annotations

import random
from collections.abc import Callable

_ADJECTIVE_TEXT = (
    "able agile airy amber ample apt avid azure balmy bold brave breezy bright brisk calm candid cheery civil clean clear "
    "clever coastal cosy crisp daring dapper deft eager early earnest easy exact fair fancy fast fine firm fleet fluent fond "
    "frank free fresh gentle glad golden grand happy hardy hearty honest humble ideal jolly jovial joyful keen kind lively "
    "lofty loyal lucid lucky mellow merry mighty mild modest neat nimble noble open patient placid plucky polite prompt proud "
    "quick quiet rapid ready robust rosy serene sharp shiny silent simple sincere sleek smart snug solid sound spry stable "
    "steady stout sunny supple sure swift tender thrifty tidy tranquil trusty upbeat valiant vivid warm wise witty zesty"
)
_SURNAME_TEXT = (
    "aiken allen amdahl backus bardeen bartik berezin bernerslee blum boole brattain brooks cerf church codd cook cray dahl "
    "davies dijkstra eckert engelbart estrin feinler floyd forsythe franklin gray hamilton hamming hartmanis hejlsberg hoare "
    "holberton hopper huffman iverson jennings joy kahan kahn kapor karp kay keller kernighan kilby kildall kleene knuth lamarr "
    "lampson lamport leibniz licklider liskov lovelace mauchly mccarthy mccluskey meltzer metcalfe milner minsky moore naur "
    "newell noyce nygaard papert perlis perlman postel rabin ritchie rivest sammet scott shannon shamir shaw simon spence "
    "stallman stearns stonebraker strachey sutherland tanenbaum tarjan teitelman thacker thompson torvalds turing ulam "
    "vonneumann wilkes wilkinson wing wirth wozniak yao zuse"
)
_ADJECTIVES = tuple(_ADJECTIVE_TEXT.split())
_SURNAMES = tuple(_SURNAME_TEXT.split())


def generate(is_taken: Callable[[str], bool], choice: random.Random | None = None) -> str:
    """A free name. After some tries a digit is added, so that it always ends."""
    source = choice or random.SystemRandom()
    for attempt in range(1000):
        name = f"{source.choice(_ADJECTIVES)}_{source.choice(_SURNAMES)}"
        if attempt >= 5:
            name += str(source.randrange(10 ** (attempt // 5)))
        if not is_taken(name):
            return name
    raise AssertionError("unreachable: the numbers grow")
