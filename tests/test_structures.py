"""The data structures that all folders share."""

from structures import image_sort_key


def test_image_ids_are_sorted_by_number_then_by_text():
    names = ["b", "10", "9", "a", "007", "1" * 5000, "²"]
    assert sorted(names, key=image_sort_key) == ["007", "9", "10", "1" * 5000, "a", "b", "²"]
    assert sorted([10, 9], key=image_sort_key) == [9, 10]
