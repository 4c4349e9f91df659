-- Counts in a group's ledger what others have acknowledged, who do not count: older workers.
--
-- KEYS  stream, ledger
-- ARGV  group
-- Gives how many entries that is now; nil where there is no ledger yet, or Redis can't tell the lag
--
-- To be called when nobody else reads: what ours acknowledge is counted in the same step, so that
-- whatever is missing was somebody else's.

local stream = streamInfo(KEYS[1])
if not stream then return nil end
local base = redis.call('HGET', KEYS[2], 'base')
if not base then return nil end
for _, group in ipairs(groupsInfo(KEYS[1], stream)) do
  if group['name'] == ARGV[1] and group['lag'] then
    local off = stream['entries-added'] - group['pending'] - group['lag']
    for _, count in ipairs(redis.call('HVALS', KEYS[2])) do off = off - tonumber(count) end
    if off ~= 0 then redis.call('HINCRBY', KEYS[2], 'others', off) end
    return off
  end
end
return nil
