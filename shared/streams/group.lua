-- Makes sure of the group, and of the base of its ledger.
--
-- KEYS  stream, ledger
-- ARGV  group
-- Gives 1 when the group was created, else 0
--
-- The base is where the sum of outcomes begins: entries added = base + outcomes + pending + lag. It
-- waits for a later call while Redis can't tell the lag. Neither XGROUP CREATE nor HSET is allowed on a
-- full Redis as the first write of a script; XGROUP and HDEL of nothing are, and open the way: the few
-- bytes let the consumers drain what fills it.

local stream, ledger, group = KEYS[1], KEYS[2], ARGV[1]

local function find()
  if redis.call('EXISTS', stream) == 0 then return nil end
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local fields = {}
    for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
    if fields['name'] == group then return fields end
  end
end

local found, created = find(), 0
if not found then
  redis.call('HDEL', ledger, '')
  redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
  found, created = find(), 1
end
if redis.call('HEXISTS', ledger, 'base') == 1 or not found['lag'] then return created end

local added = 0
local info = redis.call('XINFO', 'STREAM', stream)
for i = 1, #info, 2 do
  if info[i] == 'entries-added' then added = info[i + 1] end
end
local counted = 0
for _, count in ipairs(redis.call('HVALS', ledger)) do counted = counted + tonumber(count) end
redis.call('HDEL', ledger, '')
redis.call('HSET', ledger, 'base', added - counted - found['pending'] - found['lag'])
return created
