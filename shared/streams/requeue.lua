-- Puts entries that are in hand at the end of their stream, perhaps changed, and acknowledges them.
--
-- KEYS  stream, ledger, suspects
-- ARGV  group, '1' if no other group counts on this stream, outcome, then for each entry: id, how
--       many fields follow, the fields
-- Gives the new id of each, or '' for one that was no longer pending
--
-- The first write is XADD: a Redis without memory refuses it, and all entries stay pending.

local stream, group = KEYS[1], ARGV[1]
local ids, done = {}, {}
local i = 4
while i <= #ARGV do
  local id, fields = ARGV[i], tonumber(ARGV[i + 1])
  if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then
    ids[#ids + 1] = ''
  else
    ids[#ids + 1] = redis.call('XADD', stream, '*', unpack(ARGV, i + 2, i + 1 + fields))
    redis.call('XACK', stream, group, id)
    done[#done + 1] = id
  end
  i = i + 2 + fields
end
if #done == 0 then return ids end
if ARGV[2] == '1' and #redis.call('XINFO', 'GROUPS', stream) == 1 then
  redis.call('XDEL', stream, unpack(done))
end
redis.call('HINCRBY', KEYS[2], ARGV[3], #done)
for _, id in ipairs(done) do redis.call('HDEL', KEYS[3], group .. '/' .. id) end
return ids
