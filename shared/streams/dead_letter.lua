-- Sets an entry aside: dead letter, acknowledgement and ledger in one step.
--
-- KEYS  stream, ledger, dead-letter stream, suspects
-- ARGV  group, '1' if no other group counts on this stream, id, reason, greatest length,
--       field in suspects, the dead letter's fields
-- Gives 'done', 'gone' when the entry is no longer pending, 'full' when there is no room by length
--
-- The first write is XADD: a Redis without memory refuses it, and the entry stays pending.

local stream, group, id = KEYS[1], ARGV[1], ARGV[3]
if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then return 'gone' end
if redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[5]) then return 'full' end
redis.call('XADD', KEYS[3], '*', unpack(ARGV, 7))
redis.call('XACK', stream, group, id)
if ARGV[2] == '1' and #redis.call('XINFO', 'GROUPS', stream) == 1 then
  redis.call('XDEL', stream, id)
end
redis.call('HINCRBY', KEYS[2], 'dead:' .. ARGV[4], 1)
redis.call('HDEL', KEYS[4], ARGV[6])
return 'done'
