"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("antiphon", deadline=None)  # a shared machine is slow at times, and that is no failure
settings.load_profile("antiphon")
