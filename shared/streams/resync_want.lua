-- Notes repos that must be read whole again, each once.
--
-- KEYS  resyncs, waiting
-- ARGV  most under way, then did, rev and so on
-- Gives how many were noted, all those before the first that found no room

for i = 2, #ARGV, 2 do
  if not wantResync(KEYS[1], KEYS[2], tonumber(ARGV[1]), ARGV[i], ARGV[i + 1]) then
    return (i - 2) / 2
  end
end
return (#ARGV - 1) / 2
