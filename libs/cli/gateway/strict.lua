-- Refuses what Envoy's transcoder of JSON drops or reads in silence: fields that the request has not, fields given twice,
-- fields of the path in the body or query, a body or a query where the path takes none, and what only resembles JSON.
-- Whether values have the right types is for the transcoder to say.
--
-- BODY_BYTES_MAX is written before this text, and from the descriptors MESSAGES and BINDINGS:
--   MESSAGES[message][field]  0 for a scalar, "[" before a list, "{" before the values of a map, or a message's name.
--   BINDINGS[verb]            a list of { pattern of the path, message, whether there is a body, fields in the path,
--                             whether the answer is a stream }. A body that is "raw" is passed on as it is.

local DEPTH_MAX = 64
local SHOWN_MAX = 100
local MALFORMED = { field = "", description = "the body is no JSON" }
local QUOTE, BACKSLASH, OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST, COLON, COMMA = 34, 92, 123, 125, 91, 93, 58, 44
local LITERALS = { ["true"] = true, ["false"] = true, ["null"] = true }
local byte, find, sub = string.byte, string.find, string.sub

-- A kind is nil for what may be anything, or a table with `fields` (by both of their names), `items` of a list, or `values`
-- of a map.
local KINDS = {}
for name in pairs(MESSAGES) do
  KINDS[name] = { fields = {} }
end

local function kind_of(written)
  if written == 0 or written == "" then
    return nil
  end
  local first = sub(written, 1, 1)
  if first == "[" then
    return { is_list = true, items = kind_of(sub(written, 2)) }
  elseif first == "{" then
    return { values = kind_of(sub(written, 2)) }
  end
  return KINDS[written]
end

for name, fields in pairs(MESSAGES) do
  for field, written in pairs(fields) do
    local found = { name = field, kind = kind_of(written) }
    KINDS[name].fields[field] = found
    KINDS[name].fields[string.gsub(field, "_(%w)", string.upper)] = found
  end
end

local function refuse(field, description)
  error({ field = field, description = description }, 0)
end

local function shown(text)
  return string.gsub(sub(text, 1, SHOWN_MAX), "[^%w_.-]", "?")
end

local function skip_space(text, at)
  return find(text, "[^ \t\r\n]", at) or #text + 1
end

-- Return the place after the string that begins at `at`.
local function after_string(text, at)
  local from = at + 1
  while true do
    local place = find(text, '["\\]', from)
    if not place then
      error(MALFORMED, 0)
    elseif byte(text, place) == QUOTE then
      return place + 1
    end
    from = place + 2
  end
end

local after_value

local function after_list(text, at, kind, path, bound, depth)
  -- The transcoder takes a list within a list as one list.
  local items = kind and (kind.items or kind)
  at = skip_space(text, at + 1)
  if byte(text, at) == CLOSE_LIST then
    return at + 1
  end
  while true do
    at = skip_space(text, after_value(text, at, items, path, bound, depth + 1))
    local sign = byte(text, at)
    if sign == CLOSE_LIST then
      return at + 1
    elseif sign ~= COMMA then
      error(MALFORMED, 0)
    end
    at = skip_space(text, at + 1)
  end
end

-- Return the kind of an object's value and its path; refuse a field that there is not, or that was given before.
local function member(key, kind, path, bound, seen)
  if not (kind and kind.fields) then
    if kind and seen[key] then
      refuse(path .. shown(key), "is given twice")
    end
    seen[key] = true
    return kind and kind.values, path
  end
  local found = kind.fields[key]
  local full = path .. (found and found.name or shown(key))
  if not found then
    refuse(full, "is no field of the request")
  elseif seen[found.name] then
    refuse(full, "is given twice")
  elseif bound[full] then
    refuse(full, "is in the path, so it may not be in the body")
  end
  seen[found.name] = true
  return found.kind, full .. "."
end

local function after_object(text, at, kind, path, bound, depth)
  -- The transcoder takes one object in place of a list of it.
  kind = kind and (kind.items or kind)
  at = skip_space(text, at + 1)
  if byte(text, at) == CLOSE_OBJECT then
    return at + 1
  end
  local seen = {}
  while true do
    if byte(text, at) ~= QUOTE then
      error(MALFORMED, 0)
    end
    local behind = after_string(text, at)
    local of, inside = member(sub(text, at + 1, behind - 2), kind, path, bound, seen)
    at = skip_space(text, behind)
    if byte(text, at) ~= COLON then
      error(MALFORMED, 0)
    end
    at = skip_space(text, after_value(text, skip_space(text, at + 1), of, inside, bound, depth + 1))
    local sign = byte(text, at)
    if sign == CLOSE_OBJECT then
      return at + 1
    elseif sign ~= COMMA then
      error(MALFORMED, 0)
    end
    at = skip_space(text, at + 1)
  end
end

-- Return the place after the value that begins at `at`.
function after_value(text, at, kind, path, bound, depth)
  if depth > DEPTH_MAX then
    refuse(sub(path, 1, -2), "is nested too deeply")
  end
  local sign = byte(text, at)
  if sign == QUOTE then
    return after_string(text, at)
  elseif sign == OPEN_OBJECT then
    return after_object(text, at, kind, path, bound, depth)
  elseif sign == OPEN_LIST then
    return after_list(text, at, kind, path, bound, depth)
  end
  local _, last = find(text, "^%-?%d[%d.eE+-]*", at)
  if not last then
    _, last = find(text, "^%l+", at)
    if not (last and LITERALS[sub(text, at, last)]) then
      error(MALFORMED, 0)
    end
  end
  return last + 1
end

local function check_query(query, message, bound)
  local seen = {}
  for parameter in string.gmatch(query, "[^&]+") do
    local written = string.match(parameter, "^([^=]+)=")
    if not written then
      -- The transcoder drops it.
      refuse(shown(parameter), "is no parameter of the form name=value")
    end
    -- The transcoder takes `%6frganizationId` for organizationId.
    local key = string.gsub(written, "%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end)
    local kind, full, found = KINDS[message], "", nil
    for name in string.gmatch(key, "[^.]+") do
      found = kind and kind.fields and kind.fields[name]
      kind = found and found.kind
      full = full .. "." .. (found and found.name or "")
    end
    if found and seen[full] and not (kind and kind.is_list) then
      refuse(sub(full, 2), "is given twice")
    elseif bound[sub(full, 2)] then
      refuse(sub(full, 2), "is in the path, so it may not be in the query")
    end
    seen[full] = true
  end
end

-- Return the binding that a path means, or nil. The transcoder drops a `/` at the end, so that `a/` would become `a`.
local function binding_of(verb, path)
  if sub(path, -1) == "/" then
    return nil
  end
  for _, binding in ipairs(BINDINGS[verb] or {}) do
    if find(path, binding[1]) then
      return binding
    end
  end
end

-- Return what is wrong with a request as { field, description }, or nil. `body` is nil where there is none.
local function flaw_of(binding, query, body)
  local _, message, takes_body, bound = unpack(binding)
  local fine, flaw = pcall(function()
    if not takes_body then
      if body and body ~= "" then
        refuse("", "a body is not taken with this path; give fields in the query")
      end
      check_query(query, message, bound)
    elseif query ~= "" then
      refuse("", "a query is not taken with this path; give fields in the body")
    elseif body and takes_body ~= "raw" then
      local at = skip_space(body, 1)
      if at <= #body and skip_space(body, after_value(body, at, KINDS[message], "", bound, 1)) <= #body then
        error(MALFORMED, 0)
      end
    end
  end)
  if fine then
    return nil
  end
  -- A mistake in this script is a text. What could not be checked is not passed on.
  return type(flaw) == "table" and flaw or { field = "", description = "the request could not be checked" }
end
