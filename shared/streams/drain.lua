-- Asks the consumers of a group to finish what is pending and to read nothing new.
--
-- KEYS  drain
-- ARGV  seconds for which that holds
--
-- By the clock of Redis, which the consumers compare with their own beginning: one that starts later
-- is not meant.

local time = redis.call('TIME')
redis.call('SET', KEYS[1], time[1], 'EX', ARGV[1])
return 1
