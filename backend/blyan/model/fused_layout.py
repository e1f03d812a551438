"""What stands where in the tables of numbers and addresses that jitted code reads.

`fused_room` and `weight_tables` write them, `fused_code` reads them.
"""

from __future__ import annotations

# columns of `dims`
(
    LAYERS,
    HIDDEN,
    HEADS,
    KV_HEADS,
    HEAD_DIM,
    EXPERTS,
    TOP_K,
    VOCAB,
    NORMALISE,
    WIDE,
    QK_NORM,  # 0 none, 1 of a head, 2 of all heads
    PAGES,
    INNER,  # of a routed expert
    ROOM,  # of the widest expert or dense layer
) = range(14)
# columns of `trunk`, one row a layer; matrices take five, a bias follows
INPUT_NORM, POST_NORM, Q_NORM, K_NORM, GATE, WINDOW, MOE, SHARED_GATE, EXTRA_INNER = range(9)
Q, K, V, O = 9, 15, 21, 27  # noqa: E741 - the output projection's usual letter
# columns of `experts`
UP_GATE, UP, DOWN = 0, 5, 10
# entries of `places`: addresses
(
    X,
    NORMED,
    QUERIES,
    NEW_KEYS,
    NEW_VALUES,
    ATTENDED,
    PROJECTED,
    GATED,
    RAISED,
    LOWERED,
    MIXED,
    ROUTING,
    ATTENTION,
    EMBED,
    FINAL_NORM,
    HEAD,
    KEYS,
    VALUES,
    SCORES,
    SCORE_BYTES,  # room for one thread's scores of one query
    PANELS,  # room for one thread's widened panel
    PANEL_BYTES,
) = range(22)


# The parts of a step, numbered: the embeddings, three of each layer, the scores. A step may be computed in stretches of
# parts, with what others compute in between: the experts elsewhere, or other layers.


def attention_of(layer: int) -> int:
    """Norm, attention, and the choice of experts. A stretch that begins here is given the hidden states."""
    return 1 + 3 * layer


def experts_of(layer: int) -> int:
    """The products of the experts that are listed in `ranges`."""
    return 2 + 3 * layer


def mixture_of(layer: int) -> int:
    """Their sum by share, and the residual."""
    return 3 + 3 * layer


def scores_of(layers: int) -> int:
    """The scores of a model of so many layers: the last part."""
    return 1 + 3 * layers
