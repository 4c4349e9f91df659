-- A stream and its groups at one moment.
--
-- KEYS  stream
-- Gives {length, entries added, last id, {{group, pending, last delivered, lag or nil,
--        oldest pending id or nil}, ...}}; a stream that is not there is an empty one

local stream = streamInfo(KEYS[1])
if not stream then return {0, 0, '0-0', {}} end
local groups = {}
for i, group in ipairs(groupsInfo(KEYS[1], stream)) do
  local oldest = redis.call('XPENDING', KEYS[1], group['name'])[2]
  groups[i] = {group['name'], group['pending'], group['last-delivered-id'], group['lag'], oldest}
end
return {stream['length'], stream['entries-added'], stream['last-generated-id'], groups}
