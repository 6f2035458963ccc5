-- The deduction in five steps: begin, lock the row, compare, update, commit.
BEGIN;
SELECT tokens_remaining FROM subscriptions WHERE number = 1 FOR UPDATE \gset
\if :tokens_remaining >= :tokens
UPDATE subscriptions
SET tokens_used = tokens_used + :tokens, tokens_remaining = tokens_remaining - :tokens
WHERE number = 1;
\endif
COMMIT;
