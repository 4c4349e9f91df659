-- Makes sure of the group, of what it is said to have read, and of the base of its ledger.
--
-- KEYS  stream, ledger
-- ARGV  group
-- Gives 1 when the group was created, else 0
--
-- The base is where the sum of outcomes begins: entries added = base + outcomes + pending + lag. It
-- waits for a later call while Redis can't tell the lag. Neither XGROUP CREATE nor HSET is allowed on a
-- full Redis as the first write of a script; XGROUP and HDEL of nothing are, and open the way: the few
-- bytes let the consumers drain what fills it.

local key, ledger, name = KEYS[1], KEYS[2], ARGV[1]

local function find()
  local stream = streamInfo(key)
  for _, group in ipairs(stream and groupsInfo(key, stream) or {}) do
    if group['name'] == name then return group, stream end
  end
end

local group, stream = find()
local created = 0
if not group then
  redis.call('HDEL', ledger, '')
  redis.call('XGROUP', 'CREATE', key, name, '0', 'MKSTREAM')
  group, stream = find()
  created = 1
end
if hasReadAll(group, stream) and group['entries-read'] ~= stream['entries-added'] then
  local last, read = group['last-delivered-id'], stream['entries-added']
  redis.call('XGROUP', 'SETID', key, name, last, 'ENTRIESREAD', read)
end
if redis.call('HEXISTS', ledger, 'base') == 1 or not group['lag'] then return created end

local counted = 0
for _, count in ipairs(redis.call('HVALS', ledger)) do counted = counted + tonumber(count) end
local base = stream['entries-added'] - counted - group['pending'] - group['lag']
redis.call('HDEL', ledger, '')
redis.call('HSET', ledger, 'base', base)
return created
