"""Sets of what lives, gone through while the collector and other threads change them."""

from __future__ import annotations

import gc
import threading

from hyperpy._living import Living


class Thing:
    """Something."""


def test_living_has_what_was_added_and_lives_and_was_not_taken_out() -> None:
    living: Living[Thing] = Living()
    kept, taken, gone = Thing(), Thing(), Thing()
    for thing in (kept, taken, gone, kept):
        living.add(thing)
    living.discard(taken)
    living.discard(taken)
    del gone
    gc.collect()
    assert list(living) == [kept]


def test_living_can_be_gone_through_while_a_thread_adds_and_takes_out() -> None:
    living: Living[Thing] = Living()
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            things = [Thing() for _ in range(50)]
            for thing in things:
                living.add(thing)
            for thing in things[::2]:
                living.discard(thing)

    threads = [threading.Thread(target=change) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2000):
        assert all(isinstance(thing, Thing) for thing in living)
    over.set()
    for thread in threads:
        thread.join(10)


def test_living_can_be_changed_by_who_goes_through_it() -> None:
    living: Living[Thing] = Living()
    things = [Thing() for _ in range(5)]
    for thing in things:
        living.add(thing)
    for thing in living:
        living.discard(thing)
        living.add(Thing())
    gc.collect()
    assert list(living) == []
