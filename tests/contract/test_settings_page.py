"""The page on settings says what the settings classes say."""

from scripts import settings_page


def test_committed_page_says_what_the_settings_say() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.render()
