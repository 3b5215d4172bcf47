--[[
  Put right what other scripts would stumble over half way, while the job is still the token's.
    KEYS[1] job key
    ARGV[1] token
    ARGV    field, value, field, value, ...; an empty value deletes the field
]]
if redis.call("GET", KEYS[1] .. ":lock") ~= ARGV[1] then
  return -2
end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == "" then
    redis.call("HDEL", KEYS[1], ARGV[i])
  else
    redis.call("HSET", KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 0
