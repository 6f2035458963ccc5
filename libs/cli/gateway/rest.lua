-- What Envoy's transcoder of JSON leaves open: a call's deadline, strict requests, and what a service tells a gateway of
-- its HTTP answer.

local LONGEST_MS = 30000
-- The service answers by the deadline; Envoy waits a little longer, so that the answer is the service's.
local PATIENCE_MS = 500
-- What a service sends for the header of the HTTP answer, in trailers.
local HINTS = { "retry-after", "ratelimit", "ratelimit-policy", "adjusted-events" }
local OF_GRPC = { "grpc-status", "grpc-message", "grpc-status-details-bin", "http-status" }
-- The reasons of errors that gRPC makes by itself, without details, by their HTTP statuses.
local REASONS = { ["499"] = "CANCELLED", ["503"] = "SERVICE_UNAVAILABLE", ["504"] = "DEADLINE_EXCEEDED" }
local INFO = '{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"%s","domain":"gateway.tollhouse"}'
local VIOLATION = '{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"%s","description":"%s"}]}'

-- The largest message that a service takes. A body may have BODY_BYTES_MAX, which is more.
local MESSAGE_BYTES_MAX = 4 * 1024 * 1024
local TOO_LARGE = '{"code":3,"message":"The request is larger than 4 MiB, as a message of protobuf.","details":['
  .. INFO:format("REQUEST_TOO_LARGE") .. "]}"

-- Answer by a whole error.
local function answer(handle, status, text)
  handle:streamInfo():dynamicMetadata():set("tollhouse", "answered", true)
  handle:respond({ [":status"] = status }, text)
end

-- Answer as a service does that names a field. Both texts are ours, without quotes or backslashes.
local function refuse_field(handle, field, description)
  local message = "The request is invalid: " .. (field == "" and "" or field .. ": ") .. description .. "."
  local details = INFO:format("INVALID_ARGUMENT") .. "," .. VIOLATION:format(field, description)
  answer(handle, "400", '{"code":3,"message":"' .. message .. '","details":[' .. details .. "]}")
end

-- Return the milliseconds that a call may take, or nil where the header is no such number.
local function timeout_of(asked)
  if asked == nil then
    return LONGEST_MS
  end
  local timeout_ms = string.match(asked, "^%d%d?%d?%d?%d?$") and tonumber(asked) or 0
  return timeout_ms >= 1 and timeout_ms <= LONGEST_MS and timeout_ms or nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path, query = string.match(headers:get(":path"), "^([^?]*)%??(.*)$")
  local binding = binding_of(headers:get(":method"), path)
  if not binding then
    -- Files and the like, which Envoy answers with by itself, are not below this path.
    if string.find(path, "^/v1/") then
      handle:respond({ [":status"] = "404" }, "")
    end
    return
  end
  local timeout_ms = timeout_of(headers:get("x-timeout-ms"))
  if not timeout_ms then
    refuse_field(handle, "x-timeout-ms", "must be a whole number from 1 to " .. LONGEST_MS)
    return
  end
  local is_stream = binding[5]
  -- A stream gets the time that its route gives it, unless its client says otherwise.
  if headers:get("x-timeout-ms") or not is_stream then
    headers:replace("grpc-timeout", timeout_ms .. "m")
    headers:replace("x-envoy-upstream-rq-timeout-ms", tostring(timeout_ms + PATIENCE_MS))
  end
  if (tonumber(headers:get("content-length") or 0) or 0) > BODY_BYTES_MAX then
    handle:respond({ [":status"] = "413" }, "")
    return
  end
  local body = handle:body()
  if body and body:length() > BODY_BYTES_MAX then
    handle:respond({ [":status"] = "413" }, "")
    return
  end
  if is_stream and body and body:length() > MESSAGE_BYTES_MAX then
    -- Of other calls the service says so, and envoy_on_response makes it readable.
    answer(handle, "413", TOO_LARGE)
    return
  end
  local flaw = flaw_of(binding, query, body and body:getBytes(0, body:length()))
  if flaw then
    refuse_field(handle, flaw.field, flaw.description)
  end
end

-- Add the details to an error that has none, so that all errors have a reason. gRPC makes such errors by itself.
local function give_reason(handle, headers)
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ""
  if not string.find(text, '^{"code":') or string.find(text, '"details":[', 1, true) then
    return
  end
  if string.find(text, "eceived message larger than max", 1, true) then
    -- For gRPC that is RESOURCE_EXHAUSTED, which would be 429.
    headers:replace(":status", "413")
    body:setBytes(TOO_LARGE)
    return
  end
  local reason = REASONS[headers:get(":status")] or "UNKNOWN"
  body:setBytes(text:sub(1, -2) .. ',"details":[' .. INFO:format(reason) .. "]}")
end

-- Answer a request that says that it is gRPC. Envoy answers such a one by headers alone, with 200.
local function refuse_grpc(handle, headers)
  local message = "This port speaks HTTP with JSON; gRPC goes to the services' own ports."
  headers:replace(":status", "415")
  headers:replace("content-type", "application/json")
  handle:body(true):setBytes('{"code":12,"message":"' .. message .. '","details":[' .. INFO:format("GRPC_NOT_SPOKEN") .. "]}")
end

function envoy_on_response(handle)
  if string.find(handle:headers():get("content-type") or "", "^application/grpc") then
    refuse_grpc(handle, handle:headers())
  end
  handle:body()
  -- They come after the body. Routes of streams do without this function: it would wait for the end of the stream.
  local trailers = handle:trailers()
  local headers = handle:headers()
  local function told(name)
    return (trailers and trailers:get(name)) or headers:get(name)
  end
  for _, name in ipairs(HINTS) do
    local value = told(name)
    if value then
      headers:replace(name, value)
    end
  end
  local status = told("http-status")
  if status and string.match(status, "^[2-5]%d%d$") then
    headers:replace(":status", status)
  end
  if headers:get(":status") == "204" then
    local body = handle:body()
    if body then
      body:setBytes("")
    end
    headers:remove("content-type")
    headers:remove("content-length")
  end
  for _, name in ipairs(OF_GRPC) do
    headers:remove(name)
    if trailers then
      trailers:remove(name)
    end
  end
  if tonumber(headers:get(":status") or 0) >= 400 then
    give_reason(handle, headers)
  end
end
