-- The ledger of a group and what it must add up to, at one moment.
--
-- KEYS  stream, ledger
-- ARGV  group
-- Gives {entries added, pending, lag or nil, {outcome, count, ...}}; nil when there is no such group

if redis.call('EXISTS', KEYS[1]) == 0 then return nil end
local function named(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = named(flat)
  if group['name'] == ARGV[1] then
    local added = named(redis.call('XINFO', 'STREAM', KEYS[1]))['entries-added']
    return {added, group['pending'], group['lag'], redis.call('HGETALL', KEYS[2])}
  end
end
return nil
