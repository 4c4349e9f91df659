-- Appends what a dead letter holds to its stream again, and removes the letter, in one step.
--
-- KEYS  dead-letter stream, stream
-- ARGV  id of the letter, the fields
-- Gives the new id, or '' when the letter is gone
--
-- The first write is XADD: a Redis without memory refuses it, and the letter stays.

if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return '' end
local id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
