import unittest
class P(unittest.TestCase):
    def test_boot(self): pass
