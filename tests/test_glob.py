import pytest

from openus.glob import Glob


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("Images/*.png", "Images/a.png", True),
        ("Images/*.png", "BUSBRA/Images/a.png", True),
        ("Images/*.png", "x/y/BUSBRA/Images/a.png", True),
        ("Images/*.png", "OtherImages/a.png", False),
        ("Images/*.png", "Images/sub/a.png", False),
        ("Images/**", "Images/sub/a.png", True),
        ("/Images/*.png", "Images/a.png", True),
        ("/Images/*.png", "BUSBRA/Images/a.png", False),
        ("**/Hospital/Test_*.png", "x/Hospital/Test_1.png", True),
        ("**/Hospital/Test_*.png", "Hospital/Test_1.png", True),
        ("a/**/b.png", "a/b.png", True),
        ("a/**/b.png", "a/x/y/b.png", True),
        ("*.csv", "deep/down/x.csv", True),
        ("*.csv", "x.csv.gz", False),
        ("p[0-9].png", "p7.png", True),
        ("p[!0-9].png", "p7.png", False),
        ("a.{jpg,JPG}", "x/a.JPG", True),
        ("a+b (1).png", "a+b (1).png", True),
        ("a.png", "aXpng", False),
    ],
)
def test_patterns_match_from_the_right(pattern: str, path: str, matches: bool) -> None:
    assert Glob(pattern).matches(path) is matches
