-- Acknowledges entries and counts what became of them, each once, whatever crashed in between.
--
-- KEYS  stream, ledger, suspects
-- ARGV  group, '1' if no other group counts on this stream, then for each entry: id, outcome
-- Gives how many of them were still pending
--
-- The first write is XACK, which a full Redis allows; the ledger may then follow it.

local stream, ledger, group = KEYS[1], KEYS[2], ARGV[1]
local outcomes, done = {}, {}
for i = 3, #ARGV, 2 do
  if redis.call('XACK', stream, group, ARGV[i]) == 1 then
    done[#done + 1] = ARGV[i]
    outcomes[ARGV[i + 1]] = (outcomes[ARGV[i + 1]] or 0) + 1
  end
end
if #done > 0 and ARGV[2] == '1' and #redis.call('XINFO', 'GROUPS', stream) == 1 then
  for first = 1, #done, 1000 do
    redis.call('XDEL', stream, unpack(done, first, math.min(first + 999, #done)))
  end
end
-- A reader that dies right after this leaves no suspicion behind.
if #done > 0 and redis.call('EXISTS', KEYS[3]) == 1 then
  for _, id in ipairs(done) do redis.call('HDEL', KEYS[3], group .. '/' .. id) end
end
for outcome, count in pairs(outcomes) do redis.call('HINCRBY', ledger, outcome, count) end
return #done
