"""The open world: experts are born, closed and merged during a run, on the evidence of sums.

At the silo: how it regrets the federation (``regret``), what it adds to the two exchanges of a
round (``silo``, ``sums``). At the server: what it keeps (``state``), what it decides after an
assessment (``decide``), what it does to the bank after training (``restructure``). Thresholds are
in ``rules``, what passes from server to silo in ``orders``, the algebra of a merge in ``refactor``.
"""
