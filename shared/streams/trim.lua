-- Trims what every group that counts has acknowledged; nothing while another group is there.
--
-- KEYS  stream
-- ARGV  the groups that count
-- Gives {entries removed, {groups that are there but do not count}, {groups that count but are not there}}

local key = KEYS[1]
local stream = streamInfo(key)
if not stream then return {0, {}, {}} end

local function after(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  -- Beyond that a double does not count by ones; the entry itself then stays.
  if #seq > 15 then return id end
  return string.format('%s-%d', ms, tonumber(seq) + 1)
end

local awaited = {}
for _, name in ipairs(ARGV) do awaited[name] = true end
local unnamed, lowest = {}, nil
for _, group in ipairs(groupsInfo(key, stream)) do
  if awaited[group['name']] then
    awaited[group['name']] = nil
    local keep = after(group['last-delivered-id'])
    local oldest = redis.call('XPENDING', key, group['name'])[2]
    if oldest and before(oldest, keep) then keep = oldest end
    if not lowest or before(keep, lowest) then lowest = keep end
  else
    unnamed[#unnamed + 1] = group['name']
  end
end
local missing = {}
for name in pairs(awaited) do missing[#missing + 1] = name end
if #unnamed > 0 or #missing > 0 or not lowest then return {0, unnamed, missing} end

-- Whole nodes first, within a limit that keeps Redis answering; the rest of a node when they are gone.
local removed = redis.call('XTRIM', key, 'MINID', '~', lowest, 'LIMIT', 20000)
if removed == 0 then removed = redis.call('XTRIM', key, 'MINID', '=', lowest) end
return {removed, unnamed, missing}
