-- Keeps entries in hand fresh, so that nobody claims them; leaves alone those that somebody has.
--
-- KEYS  stream, ledger
-- ARGV  group, consumer, deliveries to be remembered or '' to leave them, id...
-- Gives the ids that this consumer no longer has
--
-- XCLAIM acknowledges what has no payload any more: it is counted here.

local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local lost, gone = {}, 0
for i = 4, #ARGV do
  local id = ARGV[i]
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if not pending or pending[2] ~= consumer then
    lost[#lost + 1] = id
  else
    local claimed
    if ARGV[3] == '' then
      claimed = redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
    else
      claimed = redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', ARGV[3], 'JUSTID')
    end
    if #claimed == 0 then
      gone = gone + 1
      lost[#lost + 1] = id
    end
  end
end
if gone > 0 then redis.call('HINCRBY', KEYS[2], 'nil', gone) end
return lost
