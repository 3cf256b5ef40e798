-- Record what became of requests: what Groq reports, what they have used, and accounts that no longer wait or ask.
--
-- ARGV[1], in addition: `replica`, and `items`, each with one of
--   `observations`: [[window, limit, used], …], with `key`
--   `settlement`: key, account_id, weight, estimated, used, requests
--   `leaves`, `pauses`: an account id.
-- Returns JSON: [[key, [[limit, used], …]], …], with 0 for a limit that is not known.
local touched = {}
for _, item in ipairs(ask.items) do
    if item.observations then
        local key = item.key
        touched[key] = true
        for _, observation in ipairs(item.observations) do
            local window, reported, used = observation[1], observation[2], observation[3]
            set(field_of(key, window, 'limit'), reported)
            local limit = limit_of(key, window)
            local counted = math.max(math.min(used_of(key, window, limit), limit), used - (limit - size_of(window, limit)))
            if IS_DAILY[window] then
                counted = math.min(counted, used + limit * DAILY_SLACK + 1)
            end
            set_used(key, window, counted)
        end
    elseif item.settlement then
        local settlement = item.settlement
        touched[settlement.key] = true
        settle(settlement.key, settlement.estimated, settlement.used, settlement.requests)
        if redis.call('ZSCORE', order_key, settlement.account_id) then
            local difference = settlement.used - settlement.estimated
            redis.call('ZINCRBY', order_key, difference / settlement.weight, settlement.account_id)
        end
    elseif item.pauses then
        stop_asking(item.pauses)
    else
        leave(item.leaves)
    end
end
save()
local answers = {}
for key in pairs(touched) do
    local windows = {}
    for window = 1, 4 do
        local limit = limit_of(key, window)
        windows[window] = limit and string.format('[%d,%.3f]', limit, used_of(key, window, limit)) or '[0,0]'
    end
    answers[#answers + 1] = '[' .. key .. ',[' .. table.concat(windows, ',') .. ']]'
end
return '[' .. table.concat(answers, ',') .. ']'
