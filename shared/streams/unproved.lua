-- Puts a commit that nobody could verify on the list of those to be proved.
--
-- KEYS  the list: a hash, by DID
-- ARGV  DID, rev, data, prevData or '', how ('passed' or 'refused'), the entry (JSON), repos at most
-- Gives 'added', 'again', or 'full'
--
-- One commit a repo stands there, the newest: that it is signed proves those before it too, as long
-- as each leads to the next. Where one does not, the entry says so: `gap`.

local there = redis.call('HGET', KEYS[1], ARGV[1])
local entry = cjson.decode(ARGV[6])
if not there then
  local most = tonumber(ARGV[7])
  -- What was refused is no more than a hint: it leaves half of the room to what was let through.
  if ARGV[5] == 'refused' then most = most / 2 end
  if redis.call('HLEN', KEYS[1]) >= most then return 'full' end
else
  local old = cjson.decode(there)
  if old.rev == ARGV[2] and old.data == ARGV[3] then return 'again' end
  if old.how == 'passed' then
    -- What was let through must be proved, whatever comes after it.
    if ARGV[5] == 'refused' then return 'again' end
    entry.gap = old.gap or old.data ~= ARGV[4]
  end
end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(entry))
return 'added'
