-- Moves repos whose resync waits to the stream of requests, the oldest first, at most so many a minute.
--
-- KEYS  resyncs, waiting, minute, stream of requests
-- ARGV  most a minute, the relay's address for the requests
-- Gives {requested now, still waiting}
--
-- `resyncs` holds 'rev w' for a repo that waits, and 'rev r' for one that was requested. What can be
-- refused by a full Redis comes before what can't, so that nothing is taken and not requested.

local minute = math.floor(tonumber(redis.call('TIME')[1]) / 60)
local past, count = string.match(redis.call('GET', KEYS[3]) or '', '^(%d+) (%d+)$')
count = tonumber(past) == minute and tonumber(count) or 0

local requested = 0
while count < tonumber(ARGV[1]) do
  local did = redis.call('LINDEX', KEYS[2], 0)
  if not did then break end
  local rev, step = string.match(redis.call('HGET', KEYS[1], did) or '', '^(%S+) (%S+)$')
  if step == 'w' then
    local request = string.format(
      '{"did":"%s","host":"%s","rev":"%s","status":null,"active":true,"reason":"resync"}',
      did, ARGV[2], rev)
    redis.call('XADD', KEYS[4], '*', 'repo', request)
    redis.call('HSET', KEYS[1], did, rev .. ' r')
    requested, count = requested + 1, count + 1
  end
  redis.call('LPOP', KEYS[2])
end
if requested > 0 then redis.call('SET', KEYS[3], string.format('%d %d', minute, count)) end
return {requested, redis.call('LLEN', KEYS[2])}
