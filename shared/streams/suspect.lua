-- Counts that an entry is about to be opened alone.
--
-- KEYS  suspects
-- ARGV  field
-- Gives how often it was opened so, this time included, without ever being finished
--
-- HDEL of nothing comes first: a full Redis refuses HINCRBY as the first write of a script, and an
-- entry that kills its reader must not do so for ever because Redis is full.

redis.call('HDEL', KEYS[1], '')
return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
