"""UnitService: the units in which usage is counted and priced."""
