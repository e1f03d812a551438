"""Problems about words: reversed, in capitals, first and last letter, letters counted; words of 1 to 10 letters.

The words stand here, beside those that are drawn from syllables. A word is spelled before it is worked on: what a token
of several letters hides is then in plain sight.
"""

from __future__ import annotations

from typing import Final

from blyan.learning.draws import Draws
from blyan.learning.genesis.dialogue import Both, Problem, apart, same

words: Final = tuple("""
    a i an at be by do go he in is it me my no of on or so to up us we act age air all ant any arm art ask bad bag bar
    bat bed bee big bin bit box boy bus but buy can cap car cat cow cry cup cut day den dig dog dot dry ear eat egg
    end eye fan far fat few fig fir fit fix fly fog fox fun fur gap gas get gum gun hat hay hen hid hip hit hop hot
    how ice ill ink jam jar jaw jet job joy jug key kid kit lab lap law leg let lid lip log lot low mad man map mat
    mix mud mug nap net new nod now nut oak oar odd oil old one orb our out owl own pan paw pay pea pen pet pie pig
    pin pit pot put rag ram ran rat raw red rib rid rim rip rod row rub rug run sad saw sea see set she sip sit six
    ski sky sob sun tag tan tap tar tax tea ten tie tin tip toe ton top toy try tub two urn use van vet wag war wax
    web wet who why wig win wit yak yes yet zip zoo able acid also area army atom away baby back ball band bank barn
    base bath bean bear beat bell belt bend bird bite blow blue boat body bold bolt bone book boot born both bowl bulb
    burn bush cake calm camp card care cart case cash cave city clay club coal coat code coin cold comb cook cool copy
    core corn cost crab crew crop dark data date dawn deep deer desk dirt dish dive door dove down draw drop drum duck
    dust east easy edge face fact fair fall farm fast fear feel fern film find fire fish five flag flat flow foam fold
    food foot fork form four free frog fuel full game gate gift girl give glad glue goal goat gold good grab gray grid
    grow hair half hall hand hard harp head heap hear heat help herb hero hide high hill hint hold hole home hood hook
    hope horn host hour huge hunt idea inch iron jazz join joke jump just keen keep kind king kite knee knot lace lady
    lake lamb lamp land lane last late lawn lazy leaf lend lens lift like lime line lion list loaf lock loft long look
    loop loud love luck lung magic mango maple march metal minor model money month moon motor mouse mouth music nerve
    night noise north novel ocean olive onion orbit order organ panda paper party peach pearl pedal phone piano pilot
    place plain plane plant plate point pound power price prize proof proud queen quick quiet radio raven ready river
    robot rocket round sail salad salt sand scale school seed shade shark sheep shell shirt shore short silver sister
    skate sleep smile smoke snake snow soap soft song sound south space spoon sport square stable staff stage stamp
    star steam steel stick stone storm story strong sugar summer sweet table teach teeth tennis ticket tiger today
    tooth tower trade train tree trick truck trust under uncle valley velvet video violin voice wagon water wheel
    white window winter wonder yellow zebra animal autumn banana basket battle beauty blanket bottle branch bridge
    bright brother butter button camera candle carpet castle center cherry circle coffee cotton country cousin
    creature dancer danger desert dinner doctor dragon driver eleven empire engine family father finger flower forest
    freedom friend garden ginger golden grammar guitar hammer harbor harvest history holiday honey horse hospital
    island jacket journey jungle kitchen ladder language lemon letter library lizard machine market meadow memory
    mirror monkey morning mother mountain museum napkin nature needle number office orange oyster package painter
    palace parent pattern pencil pepper picture pillow planet pocket potato prince problem puzzle rabbit rainbow
    reason ribbon sailor saddle science season secret shadow shoulder signal singer spider spring squirrel station
    student sunset surface teacher theater thunder tomato tongue turtle umbrella vacation village weather whisper
    workshop yesterday chocolate crocodile dictionary adventure breakfast butterfly celebrate chemistry dangerous
    different education elephant furniture geography important invention knowledge landscape lightning medicine
    microphone newspaper orchestra pineapple president recognize satellite telephone telescope volleyball waterfall
    wilderness strawberry motorcycle background
""".split())  # fmt: skip
_onsets: Final = ("", "b", "br", "c", "ch", "d", "dr", "f", "g", "gl", "h", "j", "k", "l", "m", "n", "p", "pl", "qu",
                  "r", "s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "y", "z")  # fmt: skip
_nuclei: Final = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou", "y")
_codas: Final = ("", "", "", "b", "ck", "d", "g", "l", "ll", "m", "n", "nd", "ng", "p", "r", "rd", "s", "st", "t", "x")


def invented_word(draws: Draws) -> str:
    """One to ten letters: syllables, a beginning and an end of two real words, or letters at random."""
    kind = draws.below(10)
    if kind < 4:
        word = "".join(
            draws.pick(_onsets) + draws.pick(_nuclei) + draws.pick(_codas) for _ in range(1 + draws.below(3))
        )
    elif kind < 8:
        first, second = draws.pick(words), draws.pick(words)
        word = first[: 1 + draws.below(len(first))] + second[draws.below(len(second)) :]
    else:
        word = "".join(draws.pick("abcdefghijklmnopqrstuvwxyz") for _ in range(1 + draws.below(10)))
    return word[:10]


def word_problem(draws: Draws, kind: str, word: str = "") -> Problem:
    """One of `word_kinds` about this word, or else a listed or an invented one; below three letters all are taught."""
    word = word or (draws.pick(words) if draws.chance(0.5) else invented_word(draws))
    slots: dict[str, Both] = {"word": same(word)}
    spelled = " ".join(word)
    match kind:
        case "reverse":
            right, rule = word[::-1], "word"
            answer = same(f"{spelled}: {apart.join(right)}")
        case "upper":
            right, rule = word.upper(), "word"
            answer = same(f"{spelled}: {apart.join(right)}")
        case "first_letter" | "last_letter":
            right, rule = word[0 if kind == "first_letter" else -1], "word"
            answer = same(f"{spelled}: {right}")
        case "letters":
            right, rule = str(len(word)), "number"
            answer = same(" ".join(f"{each}{place}" for place, each in enumerate(word, 1)) + f": {right}")
        case _:
            assert kind == "count_letter"
            letter = draws.pick(word) if draws.chance(0.8) else draws.pick("abcdefghijklmnopqrstuvwxyz")
            slots["letter"], rule = same(letter), "number"
            so_far = [f"{each}{word[:place].count(letter)}" for place, each in enumerate(word, 1)]
            right = str(word.count(letter))
            answer = same(" ".join(so_far) + f": {right}")
    return Problem(kind, word if len(word) > 2 else "", slots, answer, same(right), rule)


word_kinds: Final = ("reverse", "upper", "first_letter", "last_letter", "count_letter", "letters")
