async function deleteMultipleChats(chatIds) {
  // Mended: the page declares `results` here too, which no JavaScript engine accepts.
  
  // Delete chats in parallel (be mindful of rate limits)
  const deletePromises = chatIds.map(async (chatId) => {
    try {
      const response = await fetch(`/api/v1/chats/${chatId}`, {
        method: 'DELETE',
        headers: {
          'X-API-Key': 'your-tenant-api-key'
        }
      });
      
      const data = await response.json();
      return { chatId, success: data.success, error: null };
    } catch (error) {
      return { chatId, success: false, error: error.message };
    }
  });

  const results = await Promise.all(deletePromises);
  
  const successful = results.filter(r => r.success);
  const failed = results.filter(r => !r.success);
  
  console.log(`Successfully deleted ${successful.length} chats`);
  if (failed.length > 0) {
    console.log(`Failed to delete ${failed.length} chats:`, failed);
  }
  
  return { successful, failed };
}
