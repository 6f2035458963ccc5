"""PlanService: what can be subscribed to, what it costs, includes and allows."""
