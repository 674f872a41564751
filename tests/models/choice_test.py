"""Choice: a name is one of those there are, or an error that lists them."""

import pytest

from jaxmini.models.choice import choose


def test_choose_offers_the_nearest_name():
    assert choose("pet", "cat", {"cat": 1, "dog": 2}) == 1
    with pytest.raises(
        ValueError, match=r"^pet: there is no 'cta', only 'cat', 'dog'; did you mean 'cat'\?$"
    ):
        choose("pet", "cta", {"cat": 1, "dog": 2})
    with pytest.raises(ValueError, match=r"only 'cat', 'dog'$"):
        choose("pet", "zebra", {"cat": 1, "dog": 2})


def test_an_alternative_may_be_nothing_and_a_name_no_text():
    assert choose("stem", "none", {"none": None}) is None
    with pytest.raises(ValueError, match="there is no 3, only 'none'"):
        choose("stem", 3, {"none": None})
