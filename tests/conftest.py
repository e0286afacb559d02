"""Property tests draw the same examples in every run: a suite that fails must fail again."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

pytest_plugins = ["tests.small_clip"]
