import unittest

from wordstat import as_text, ranked


class Ranked(unittest.TestCase):
    def test_frequent_words_first_then_by_alphabet(self):
        self.assertEqual(ranked({"b": 1, "c": 2, "a": 1}), [("c", 2), ("a", 1), ("b", 1)])


class AsText(unittest.TestCase):
    def test_counts_are_aligned(self):
        self.assertEqual(as_text([("a", 10), ("b", 9)]), "10 a\n 9 b\n")

    def test_nothing(self):
        self.assertEqual(as_text([]), "")


if __name__ == "__main__":
    unittest.main()
