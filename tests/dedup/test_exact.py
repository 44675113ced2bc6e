import pandas as pd

from openus.dedup.exact import exact_duplicates


def candidates(*rows: tuple[str, str]) -> pd.DataFrame:
    """Rows of (set, pixels)."""
    return pd.DataFrame(
        [
            {
                "key": f"k{i}",
                "set": name,
                "source": "s",
                "member": f"m{i}",
                "index": 0,
                "pixel_sha256": pixels,
            }
            for i, (name, pixels) in enumerate(rows)
        ]
    )


def test_the_first_of_equal_samples_stays() -> None:
    found = exact_duplicates(
        candidates(("pretrain", "a"), ("pretrain", "b"), ("pretrain", "a"), ("pretrain", "a"))
    )
    assert found.keep.tolist() == [True, True, False, False]
    assert found.cluster.tolist() == ["k0", "k1", "k0", "k0"]
    assert found.reason.tolist() == ["", "", "duplicate", "duplicate"]
    assert found.detail[2] == "same pixels as s/m0#0"


def test_a_held_out_sample_wins_and_its_copy_is_a_leak() -> None:
    found = exact_duplicates(candidates(("pretrain", "a"), ("bus-bra", "a"), ("pretrain", "b")))
    assert found.keep.tolist() == [False, True, True]
    assert found.reason.tolist() == ["leak", "", ""]
    assert found.detail[0] == "same pixels as s/m1#0"


def test_held_out_sets_are_never_thinned() -> None:
    found = exact_duplicates(candidates(("bus-bra", "a"), ("bus-bra", "a")))
    assert found.keep.tolist() == [True, True]
    assert found.cluster.tolist() == ["k0", "k0"]


def test_nothing_is_dropped_when_asked_so_but_clusters_are_named() -> None:
    found = exact_duplicates(candidates(("pretrain", "a"), ("pretrain", "a")), drop=False)
    assert found.keep.tolist() == [True, True]
    assert found.cluster.tolist() == ["k0", "k0"]
