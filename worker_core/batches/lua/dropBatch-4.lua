--[[
  Forget a batch that is not submitted after all.
    KEYS[1] job key
    KEYS[2] requests key
    KEYS[3] items key
    KEYS[4] state key
    ARGV[1] token of the submission
]]
if redis.call("EXISTS", KEYS[1]) == 0 and redis.call("HGET", KEYS[4], "submission") == ARGV[1] then
  redis.call("UNLINK", KEYS[2], KEYS[3], KEYS[4])
end
return 0
