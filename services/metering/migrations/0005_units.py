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

_SEEDS = """
INSERT INTO metering.units (unit_id, name, kind, counts_toward_context, step_thousandths, description, archived,
    revision, create_time, update_time)
SELECT listed.*, false, state.revision, now(), now() FROM metering.catalogue_state AS state, (VALUES
    ('input_tokens', 'Input tokens', 'token', true, 1000, 'Text the model reads, neither read from nor written to a cache.'),
    ('output_tokens', 'Output tokens', 'token', false, 1000, 'Text the model writes, without its reasoning.'),
    ('cache_read_tokens', 'Cache read tokens', 'token', true, 1000, 'Input read from the provider''s prompt cache.'),
    ('cache_read_explicit_tokens', 'Cache read explicit tokens', 'token', true, 1000, 'Input read from a cache that the caller made by itself.'),
    ('cache_write_tokens', 'Cache write tokens', 'token', true, 1000, 'Input written to the cache for the usual time, often 5 minutes.'),
    ('cache_write_30m_tokens', 'Cache write 30m tokens', 'token', true, 1000, 'Input written to the cache for 30 minutes.'),
    ('cache_write_1h_tokens', 'Cache write 1h tokens', 'token', true, 1000, 'Input written to the cache for one hour.'),
    ('cache_write_12h_tokens', 'Cache write 12h tokens', 'token', true, 1000, 'Input written to the cache for 12 hours.'),
    ('reasoning_tokens', 'Reasoning tokens', 'token', false, 1000, 'Output spent on reasoning.'),
    ('audio_input_tokens', 'Audio input tokens', 'token', true, 1000, 'Audio the model hears.'),
    ('audio_output_tokens', 'Audio output tokens', 'token', false, 1000, 'Audio the model speaks.'),
    ('cache_read_audio_tokens', 'Cache read audio tokens', 'token', true, 1000, 'Audio read from the cache.'),
    ('cache_write_audio_tokens', 'Cache write audio tokens', 'token', true, 1000, 'Audio written to the cache.'),
    ('image_input_tokens', 'Image input tokens', 'token', true, 1000, 'Images the model sees.'),
    ('image_output_tokens', 'Image output tokens', 'token', false, 1000, 'Images the model makes.'),
    ('cache_read_image_tokens', 'Cache read image tokens', 'token', true, 1000, 'Images read from the cache.'),
    ('video_input_tokens', 'Video input tokens', 'token', true, 1000, 'Video the model sees.'),
    ('video_output_tokens', 'Video output tokens', 'token', false, 1000, 'Video the model makes.'),
    ('cache_read_video_tokens', 'Cache read video tokens', 'token', true, 1000, 'Video read from the cache.'),
    ('document_tokens', 'Document tokens', 'token', true, 1000, 'Documents the model reads.'),
    ('cache_read_document_tokens', 'Cache read document tokens', 'token', true, 1000, 'Documents read from the cache.'),
    ('tool_use_prompt_tokens', 'Tool use prompt tokens', 'token', true, 1000, 'Input that the provider''s tools added.'),
    ('citation_tokens', 'Citation tokens', 'token', false, 1000, 'Text of cited sources, where a provider charges for it by itself.'),
    ('images', 'Images', 'count', false, 1000, 'Images made.'),
    ('images_0_5k', 'Images 0 5k', 'count', false, 1000, 'Images made in the resolution 0.5K, 512 on a side.'),
    ('images_1k', 'Images 1k', 'count', false, 1000, 'Images made in the resolution 1K, 1,024 on a side.'),
    ('images_1_5k', 'Images 1 5k', 'count', false, 1000, 'Images made in the resolution 1.5K, 1,536 on a side.'),
    ('images_2k', 'Images 2k', 'count', false, 1000, 'Images made in the resolution 2K.'),
    ('images_4k', 'Images 4k', 'count', false, 1000, 'Images made in the resolution 4K.'),
    ('input_images', 'Input images', 'count', false, 1000, 'Images given.'),
    ('pixels', 'Pixels', 'size', false, 1000, 'Pixels of images made.'),
    ('input_pixels', 'Input pixels', 'size', false, 1000, 'Pixels of images given.'),
    ('input_seconds', 'Input seconds', 'duration', false, 1, 'Seconds of audio given, or of a reserved model''s time.'),
    ('input_video_seconds', 'Input video seconds', 'duration', false, 1, 'Seconds of video given.'),
    ('output_seconds', 'Output seconds', 'duration', false, 1, 'Seconds of audio or video made.'),
    ('output_seconds_480p', 'Output seconds 480p', 'duration', false, 1, 'Seconds of video made in 480p.'),
    ('output_seconds_720p', 'Output seconds 720p', 'duration', false, 1, 'Seconds of video made in 720p.'),
    ('output_seconds_768p', 'Output seconds 768p', 'duration', false, 1, 'Seconds of video made in 768p.'),
    ('output_seconds_1080p', 'Output seconds 1080p', 'duration', false, 1, 'Seconds of video made in 1080p.'),
    ('output_seconds_2k', 'Output seconds 2k', 'duration', false, 1, 'Seconds of video made in 2K.'),
    ('output_seconds_4k', 'Output seconds 4k', 'duration', false, 1, 'Seconds of video made in 4K.'),
    ('characters', 'Characters', 'size', false, 1000, 'Characters of text given.'),
    ('output_characters', 'Output characters', 'size', false, 1000, 'Characters of text made.'),
    ('pages', 'Pages', 'count', false, 1000, 'Pages read.'),
    ('annotation_pages', 'Annotation pages', 'count', false, 1000, 'Pages annotated.'),
    ('queries', 'Queries', 'count', false, 1000, 'Queries of a search or rerank model.'),
    ('web_searches', 'Web searches', 'count', false, 1000, 'Searches of the web that a model made.'),
    ('web_searches_low', 'Web searches low', 'count', false, 1000, 'Searches of the web with little search context.'),
    ('web_searches_medium', 'Web searches medium', 'count', false, 1000, 'Searches of the web with medium search context.'),
    ('web_searches_high', 'Web searches high', 'count', false, 1000, 'Searches of the web with much search context.'),
    ('map_searches', 'Map searches', 'count', false, 1000, 'Searches of maps that a model made.'),
    ('web_fetches', 'Web fetches', 'count', false, 1000, 'Web pages that a model fetched.'),
    ('code_sessions', 'Code sessions', 'count', false, 1000, 'Sessions in which a model ran code.'),
    ('text_messages', 'Text messages', 'count', false, 1000, 'Text messages given within a session of speech.'),
    ('requests', 'Requests', 'count', false, 1000, 'Calls, each counted once.'),
    ('products', 'Products', 'count', false, 1000, 'Whatever the platform makes and sells by the piece.'),
    ('credits', 'Credits', 'count', false, 1, 'Credits in which a provider or platform counts; they come in parts, too.')
) AS listed (unit_id, name, kind, counts_toward_context, step_thousandths, description)
"""  # noqa: E501 -- one line for each unit.


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
    op.execute(_SEEDS)
