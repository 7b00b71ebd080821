from hypothesis import given
from hypothesis import strategies as st

from inference.engines.llamacpp.slots import Slot, Slots
from inference.engines.prefix import common_prefix

TOKENS = st.lists(st.integers(0, 2), max_size=12).map(tuple)


def used(slots: Slots, prompt: tuple[int, ...], salt: str = "", generated: tuple[int, ...] = ()) -> int:
    """Take a slot, fill it as a generation does, give it back; its index."""
    slot = slots.take(prompt, salt)
    slot.key, slot.prompt_length, slot.cache_salt = prompt + generated, len(prompt), salt
    slots.give_back(slot)
    return slot.index


@given(first=TOKENS, second=TOKENS)
def test_the_common_prefix_is_as_long_as_comparing_one_by_one_finds(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    length = common_prefix(first, second)
    assert first[:length] == second[:length]
    assert length in (len(first), len(second)) or first[length] != second[length]


def test_a_conversation_returns_to_its_slot() -> None:
    slots = Slots(3)
    index = used(slots, (1, 2, 3, 4), generated=(5, 6))
    used(slots, (7, 8, 9))
    assert used(slots, (1, 2, 3, 4, 5, 6, 7)) == index


def test_the_same_prompt_returns_to_its_slot_however_much_was_generated_after_it() -> None:
    slots = Slots(2)
    index = used(slots, (1, 2), generated=(5,) * 100)
    assert used(slots, (1, 2)) == index


def test_a_short_common_beginning_does_not_drive_out_a_conversation() -> None:
    slots = Slots(2)
    index = used(slots, (1, 2, *range(10, 90)))
    assert used(slots, (1, 2, *range(200, 290))) != index


def test_another_salt_does_not_count_as_a_prefix() -> None:
    slots = Slots(2)
    index = used(slots, (1, 2, 3), salt="mine")
    assert used(slots, (1, 2, 3), salt="yours") != index
    assert used(slots, (1, 2, 3), salt="mine") == index


def test_the_least_recently_used_slot_goes_first() -> None:
    slots = Slots(3)
    order = [used(slots, (n, n)) for n in range(3)]
    assert sorted(order) == [0, 1, 2]
    assert used(slots, (0, 0)) == order[0]
    assert [used(slots, (n, n)) for n in (3, 4)] == order[1:]


def test_a_slot_that_was_made_to_forget_gives_nothing() -> None:
    slot = Slot(0, key=(1, 2), prompt_length=2, cache_salt="")
    slot.forget()
    assert (slot.key, slot.prompt_length, slot.cache_salt) == ((), 0, None)
