"""Units, rate cards, and which prices were set by hand.

A price version gets its rate card from the prices it has. The columns of the eight token classes stay as they are: they
are the prices of the standard tier, up to an input context of `context_max` and before `factor`, where a card has rates
for all of them (`is_plain`).
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE metering.units (
    unit_id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    kind text NOT NULL,
    counts_toward_context boolean NOT NULL,
    step_thousandths bigint NOT NULL,
    archived boolean NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT units_pkey PRIMARY KEY (unit_id),
    CONSTRAINT units_kind CHECK (kind IN ('token', 'count', 'duration', 'size')),
    CONSTRAINT units_step CHECK (step_thousandths IN (1, 10, 100, 1000))
);
CREATE INDEX units_changes ON metering.units (revision);
REVOKE DELETE ON metering.units FROM tollhouse_metering;
ALTER TABLE metering.models ADD COLUMN price_set_by_hand boolean NOT NULL DEFAULT false;
-- squawk-ignore ban-drop-not-null
ALTER TABLE metering.price_versions ALTER COLUMN input DROP NOT NULL, ALTER COLUMN output DROP NOT NULL;
ALTER TABLE metering.price_versions ADD COLUMN rate_card jsonb, ADD COLUMN is_plain boolean NOT NULL DEFAULT true,
    ADD COLUMN context_max bigint, ADD COLUMN factor numeric(12, 6) NOT NULL DEFAULT 1;
UPDATE metering.models AS m SET price_set_by_hand = true
FROM (
    SELECT DISTINCT ON (model_id) model_id, source FROM metering.price_versions
    WHERE organization_id IS NULL AND effective_time <= now() ORDER BY model_id, effective_time DESC
) AS newest
WHERE newest.model_id = m.model_id AND newest.source = 'SetPrice'
"""

# A card as `services.metering.model.rendering` writes it.
_CARDS = """
UPDATE metering.price_versions AS v SET rate_card = jsonb_build_object(
    'rates', (
        SELECT jsonb_agg(jsonb_build_object('unit', unit, 'price', trim_scale(price)::text, 'per', per)
            || CASE WHEN unit = 'requests' THEN '{"service_tier": "any"}'::jsonb ELSE '{}'::jsonb END ORDER BY number)
        FROM (VALUES
            (1, 'input_tokens', v.input, 1000000), (2, 'output_tokens', v.output, 1000000),
            (3, 'cache_read_tokens', v.cache_read, 1000000), (4, 'cache_write_tokens', v.cache_write, 1000000),
            (5, 'reasoning_tokens', v.reasoning, 1000000), (6, 'audio_input_tokens', v.audio_input, 1000000),
            (7, 'audio_output_tokens', v.audio_output, 1000000), (8, 'image_input_tokens', v.image, 1000000),
            (9, 'requests', v.per_request, 1)
        ) AS listed (number, unit, price, per) WHERE price IS NOT NULL
    ),
    'fallbacks', '{"cache_read_tokens": "input_tokens", "cache_write_tokens": "input_tokens",
        "audio_input_tokens": "input_tokens", "image_input_tokens": "input_tokens",
        "reasoning_tokens": "output_tokens", "audio_output_tokens": "output_tokens"}'::jsonb)
"""

_IN = True
_NO = False
_UNITS = (
    ("input_tokens", "token", _IN, 1000, "Text the model reads, neither read from nor written to a cache."),
    ("output_tokens", "token", _NO, 1000, "Text the model writes, without its reasoning."),
    ("cache_read_tokens", "token", _IN, 1000, "Input read from the provider's prompt cache."),
    ("cache_read_explicit_tokens", "token", _IN, 1000, "Input read from a cache that the caller made by itself."),
    ("cache_write_tokens", "token", _IN, 1000, "Input written to the cache for the usual time, often 5 minutes."),
    ("cache_write_30m_tokens", "token", _IN, 1000, "Input written to the cache for 30 minutes."),
    ("cache_write_1h_tokens", "token", _IN, 1000, "Input written to the cache for one hour."),
    ("cache_write_12h_tokens", "token", _IN, 1000, "Input written to the cache for 12 hours."),
    ("reasoning_tokens", "token", _NO, 1000, "Output spent on reasoning."),
    ("audio_input_tokens", "token", _IN, 1000, "Audio the model hears."),
    ("audio_output_tokens", "token", _NO, 1000, "Audio the model speaks."),
    ("cache_read_audio_tokens", "token", _IN, 1000, "Audio read from the cache."),
    ("cache_write_audio_tokens", "token", _IN, 1000, "Audio written to the cache."),
    ("image_input_tokens", "token", _IN, 1000, "Images the model sees."),
    ("image_output_tokens", "token", _NO, 1000, "Images the model makes."),
    ("cache_read_image_tokens", "token", _IN, 1000, "Images read from the cache."),
    ("video_input_tokens", "token", _IN, 1000, "Video the model sees."),
    ("video_output_tokens", "token", _NO, 1000, "Video the model makes."),
    ("cache_read_video_tokens", "token", _IN, 1000, "Video read from the cache."),
    ("document_tokens", "token", _IN, 1000, "Documents the model reads."),
    ("cache_read_document_tokens", "token", _IN, 1000, "Documents read from the cache."),
    ("tool_use_prompt_tokens", "token", _IN, 1000, "Input that the provider's tools added."),
    ("citation_tokens", "token", _NO, 1000, "Text of cited sources, where a provider charges for it by itself."),
    ("images", "count", _NO, 1000, "Images made."),
    ("images_0_5k", "count", _NO, 1000, "Images made in the resolution 0.5K, 512 on a side."),
    ("images_1k", "count", _NO, 1000, "Images made in the resolution 1K, 1,024 on a side."),
    ("images_1_5k", "count", _NO, 1000, "Images made in the resolution 1.5K, 1,536 on a side."),
    ("images_2k", "count", _NO, 1000, "Images made in the resolution 2K."),
    ("images_4k", "count", _NO, 1000, "Images made in the resolution 4K."),
    ("input_images", "count", _NO, 1000, "Images given."),
    ("pixels", "size", _NO, 1000, "Pixels of images made."),
    ("input_pixels", "size", _NO, 1000, "Pixels of images given."),
    ("input_seconds", "duration", _NO, 1, "Seconds of audio given, or of a reserved model's time."),
    ("input_video_seconds", "duration", _NO, 1, "Seconds of video given."),
    ("output_seconds", "duration", _NO, 1, "Seconds of audio or video made."),
    ("output_seconds_480p", "duration", _NO, 1, "Seconds of video made in 480p."),
    ("output_seconds_720p", "duration", _NO, 1, "Seconds of video made in 720p."),
    ("output_seconds_768p", "duration", _NO, 1, "Seconds of video made in 768p."),
    ("output_seconds_1080p", "duration", _NO, 1, "Seconds of video made in 1080p."),
    ("output_seconds_2k", "duration", _NO, 1, "Seconds of video made in 2K."),
    ("output_seconds_4k", "duration", _NO, 1, "Seconds of video made in 4K."),
    ("characters", "size", _NO, 1000, "Characters of text given."),
    ("output_characters", "size", _NO, 1000, "Characters of text made."),
    ("pages", "count", _NO, 1000, "Pages read."),
    ("annotation_pages", "count", _NO, 1000, "Pages annotated."),
    ("queries", "count", _NO, 1000, "Queries of a search or rerank model."),
    ("web_searches", "count", _NO, 1000, "Searches of the web that a model made."),
    ("web_searches_low", "count", _NO, 1000, "Searches of the web with little search context."),
    ("web_searches_medium", "count", _NO, 1000, "Searches of the web with medium search context."),
    ("web_searches_high", "count", _NO, 1000, "Searches of the web with much search context."),
    ("map_searches", "count", _NO, 1000, "Searches of maps that a model made."),
    ("web_fetches", "count", _NO, 1000, "Web pages that a model fetched."),
    ("code_sessions", "count", _NO, 1000, "Sessions in which a model ran code."),
    ("text_messages", "count", _NO, 1000, "Text messages given within a session of speech."),
    ("requests", "count", _NO, 1000, "Calls, each counted once."),
    ("products", "count", _NO, 1000, "Whatever the platform makes and sells by the piece."),
    ("credits", "count", _NO, 1, "Credits in which a provider or platform counts; they come in parts, too."),
)


def upgrade() -> None:
    """Create the catalogue of units, and give every price version its rate card."""
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
    op.execute(_CARDS)
    op.execute("""
-- squawk-ignore adding-not-nullable-field
ALTER TABLE metering.price_versions ALTER COLUMN rate_card SET NOT NULL
""")
    op.execute("UPDATE metering.catalogue_state SET revision = revision + 1")
    values = ", ".join(
        f"({_quoted(unit_id)}, {_quoted(unit_id.replace('_', ' ').capitalize())}, {_quoted(description)},"
        f" {_quoted(kind)}, {counts_toward_context}, {step_thousandths})"
        for unit_id, kind, counts_toward_context, step_thousandths, description in _UNITS
    )
    op.execute(f"""
INSERT INTO metering.units SELECT listed.*, false, revision, now(), now() FROM metering.catalogue_state, (
    VALUES {values}
) AS listed (unit_id, name, description, kind, counts_toward_context, step_thousandths)
""")  # noqa: S608 -- constants of this file.


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
