"""docs/scale.md says what `plan` says."""

import plan_table


def test_plan_table__is_the_one_of_the_page():
    assert plan_table.table() in plan_table.PAGE.read_text(encoding="utf-8")
