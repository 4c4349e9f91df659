-- Takes a repo off the list of those to be proved, unless another commit of it has come there since.
--
-- KEYS  the list: a hash, by DID
-- ARGV  DID, the entry that was judged

if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
return redis.call('HLEN', KEYS[1])
