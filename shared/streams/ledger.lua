-- The ledger of a group and what it must add up to, at one moment.
--
-- KEYS  stream, ledger
-- ARGV  group
-- Gives {entries added, pending, lag or nil, {outcome, count, ...}}; nil when there is no such group

local stream = streamInfo(KEYS[1])
if not stream then return nil end
for _, group in ipairs(groupsInfo(KEYS[1], stream)) do
  if group['name'] == ARGV[1] then
    local outcomes = redis.call('HGETALL', KEYS[2])
    return {stream['entries-added'], group['pending'], group['lag'], outcomes}
  end
end
return nil
