--[[
  Put right what other scripts would stumble over half way; a job that is gone stays gone.
    KEYS[1] job key
    ARGV    field, value, field, value, ...; an empty value deletes the field
]]
if redis.call("EXISTS", KEYS[1]) == 0 then
  return -1
end
for i = 1, #ARGV, 2 do
  if ARGV[i + 1] == "" then
    redis.call("HDEL", KEYS[1], ARGV[i])
  else
    redis.call("HSET", KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 0
