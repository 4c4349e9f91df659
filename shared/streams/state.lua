-- A stream and its groups at one moment.
--
-- KEYS  stream
-- Gives {length, entries added, last id, {{group, pending, last delivered, lag or nil,
--        oldest pending id or nil}, ...}}; a stream that is not there is an empty one

local function named(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0, '0-0', {}} end
local stream = named(redis.call('XINFO', 'STREAM', KEYS[1]))
local groups = {}
for i, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = named(flat)
  local oldest = redis.call('XPENDING', KEYS[1], group['name'])[2]
  groups[i] = {group['name'], group['pending'], group['last-delivered-id'], group['lag'], oldest}
end
return {stream['length'], stream['entries-added'], stream['last-generated-id'], groups}
