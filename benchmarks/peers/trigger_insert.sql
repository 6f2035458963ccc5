-- One usage row, one transaction; the trigger does the rest.
\set number random(1, :models * :tenants)
\set request_tokens random(400, 4000)
\set response_tokens random(50, 500)
INSERT INTO usage_logs (subscription_id, api_key_id, model_id, request_tokens, response_tokens, latency_ms, status_code)
SELECT subscription_id, api_key_id, model_id, :request_tokens, :response_tokens, 850, 200
FROM callers
WHERE number = :number;
