-- Leaves a consumer's seat, if nothing is pending there: whoever comes next need not wait.
--
-- KEYS  stream, mark
-- ARGV  group, consumer
-- Gives 1 when the seat is free

if redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
redis.call('DEL', KEYS[2])
return 1
