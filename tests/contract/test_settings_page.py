"""The page on settings matches the settings classes."""

from scripts import settings_page


def test_committed_page_matches_the_settings() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.render()
