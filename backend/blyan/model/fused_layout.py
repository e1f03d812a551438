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
