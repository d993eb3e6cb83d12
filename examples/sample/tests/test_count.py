import unittest

from wordstat import count_words


class CountWords(unittest.TestCase):
    def test_counts_over_all_lines(self):
        self.assertEqual(count_words(["one two", "two"]), {"one": 1, "two": 2})

    def test_punctuation_separates_and_is_no_word(self):
        self.assertEqual(count_words(["a, b - (a)."]), {"a": 2, "b": 1})

    def test_apostrophes_and_hyphens_belong_to_a_word(self):
        self.assertEqual(count_words(["don't 'well-known' don’t"]), {"don't": 1, "well-known": 1, "don’t": 1})

    def test_letters_of_any_language(self):
        self.assertEqual(count_words(["Öl über Öl"]), {"Öl": 2, "über": 1})

    def test_nothing(self):
        self.assertEqual(count_words([]), {})


if __name__ == "__main__":
    unittest.main()
