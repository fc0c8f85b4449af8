"""Several policies, of which a budget chooses one."""

from keras_adaptive._checks import finite


def as_policies(policy):
    """Returns a policy, or several with costs that can be compared, as a list."""
    policies = list(policy) if isinstance(policy, (list, tuple)) else [policy]
    if not policies:
        raise ValueError("`policy` must hold at least one policy. Received: policy=[]")
    units = {getattr(one, "unit", None) for one in policies} - {None}
    if len(units) > 1:
        raise ValueError(
            "The policies must have costs of one unit, for a budget to pick one. Received: "
            f"units {sorted(units)}"
        )
    return policies


def within_budget(policies, budget):
    """Returns the index of the most expensive policy whose mean cost is within a budget.

    Args:
        policies: List of policies; `calibrate` has written their mean costs into their details.
        budget: Number, in the unit of their costs. `None`, where there is one policy: that.
    """
    if budget is None:
        if len(policies) > 1:
            raise ValueError(
                "`budget` must be given where there are several policies. Received: budget=None"
            )
        return 0
    costs = [policy.details.get("mean_cost") for policy in policies]
    if None in costs:
        raise ValueError(
            "Every policy must say its `mean_cost` in its `details`, as those made by "
            "`calibrate` do, for a budget to pick one. Received: a policy that does not"
        )
    budget = finite(budget, "budget")
    affordable = [i for i, cost in enumerate(costs) if cost <= budget * (1 + 1e-9)]
    if not affordable:
        raise ValueError(
            "`budget` must be at least the mean cost of the cheapest policy, "
            f"{min(costs):.10g}. Received: budget={budget}"
        )
    return max(affordable, key=costs.__getitem__)
