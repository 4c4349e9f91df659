-- Ends the resyncs that a whole repo has reached; one that has fallen behind meanwhile waits again.
--
-- KEYS  resyncs, waiting
-- ARGV  did, rev of the whole repo or '' to end it all the same, and so on

for i = 1, #ARGV, 2 do
  local did, reached = ARGV[i], ARGV[i + 1]
  local rev, step = string.match(redis.call('HGET', KEYS[1], did) or '', '^(%S+) (%S+)$')
  if rev and (reached == '' or reached >= rev) then
    redis.call('HDEL', KEYS[1], did)
  elseif step == 'r' then
    redis.call('RPUSH', KEYS[2], did)
    redis.call('HSET', KEYS[1], did, rev .. ' w')
  end
end
